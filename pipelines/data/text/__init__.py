"""What a text is: documents, their bytes for compiled code, their words."""
