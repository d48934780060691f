"""Figures anyone can repeat: speed as ratios of one run, detectors against published breaker defaults."""
