"""What the rooms with torch share: norm balls, random numbers, the device, the modes of a network."""
