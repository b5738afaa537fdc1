"""Fixtures, factories and checks that tests share."""
