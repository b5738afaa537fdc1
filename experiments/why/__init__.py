"""Why prompts of a finished sweep transfer or not: drift, CLIP, spectrum, occlusion, offsets, a predictor."""
