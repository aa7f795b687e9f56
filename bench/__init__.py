"""What a call through the data plane costs in time and CPU, measured against nginx in the same rounds."""
