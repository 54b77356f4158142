"""Pools of workers in other processes and on other machines."""
