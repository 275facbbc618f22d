"""What runs are worth: figures of merit, their intervals, and aggregates over tasks."""
