-- Which checkpoint a pack was written for is asked of every base that `show` names.
CREATE INDEX checkpoints_by_save ON checkpoints (save);
