"""The ESP32 as a device: what agent.py needs from it. Written, not yet run on hardware."""
