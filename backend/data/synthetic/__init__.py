"""An endless source of volumes with masks: procedural or given shapes, painted as CT, MR, PET or ultrasound."""
