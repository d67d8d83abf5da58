"""What a plan costs: FLOPs, hours, GPU shares, the order of trials. Reads storage, and keeps there what was
measured; starts nothing.
"""
