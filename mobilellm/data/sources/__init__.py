"""Where documents come from: files, folders, the hub, mixtures."""
