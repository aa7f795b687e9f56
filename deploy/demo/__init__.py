"""A provider that is scripted: it speaks the providers' wire formats and replies what it is told."""
