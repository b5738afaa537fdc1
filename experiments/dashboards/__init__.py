"""W&B dashboards as code: one workspace for a run, one for a sweep (extra `dashboards`)."""
