"""What the emulator knows of a frame: variables, masks, boxes and captions. Imports numpy alone."""
