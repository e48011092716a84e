"""Learns to act: DQN, replay, losses, schedules. May import `perception`; is told `num_actions`, never sees an emulator."""
