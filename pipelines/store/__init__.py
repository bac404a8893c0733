"""What workflows leave each other, and where it lies: artifacts over a folder or a bucket, the cache of a bucket,
leases, full disks.
"""
