"""The system: files, processors, devices, progress output, provenance and code versions."""
