"""From clicks to masks: predictor, session and what they are made of."""
