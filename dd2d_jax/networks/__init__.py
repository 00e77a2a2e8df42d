"""Twin towers, their loss and attention, the disturbances they are trained on, checkpoints."""
