"""What tasks look like: functions with the paths of optimizers over them, images, texts."""
