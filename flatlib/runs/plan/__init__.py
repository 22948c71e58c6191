"""What training would take, before it is trained: how many runs, how long, how much memory.

asked (what a chapter asks for) -> length (updates and products of a run) -> steps, memory (what these take here)
-> estimate (a row for every chapter)
"""
