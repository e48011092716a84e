"""Learns to act: DQN, replay, losses, schedules. May import `perception`; never sees an emulator."""
