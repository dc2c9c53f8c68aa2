"""Loads trained models together with their tokenizers, and generates text."""
