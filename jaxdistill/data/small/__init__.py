"""The small world: a closed language for models of half a million weights.

`world` is arithmetic with written working; `judging` compares workings and
revises them; `people` are facts to be read, rewritten and remembered; `items`
are graded for a query; `wide` is all of it as one corpus.
"""
