"""Inference timing of all models of a dataset: contenders in processes of their own, in interleaved rounds.

Neighbours on a machine move a single figure several times; ratios within a round stand. One contender
runs at a time, the others wait for a message; one timing runs on a machine at a time.
"""
