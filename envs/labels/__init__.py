"""What the emulator knows of a frame: variables, things on the screen, masks and boxes. Imports no emulator."""
