"""The store as one thing: journal, the road of a write, reads, detections, pipelines, recovery, health."""
