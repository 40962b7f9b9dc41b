"""All that concerns this process itself: its signals, its log, its faults and its libraries' versions."""
