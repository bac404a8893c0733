"""What answers cost: speed, memory, bits per byte and money, of every format of a model side by side."""
