"""What each adapter relies on, one profile an engine or provider. (P)"""
