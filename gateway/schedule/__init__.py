"""Where a request goes: filters leave candidates out, scorers value the rest, a picker ranks them. (P)"""
