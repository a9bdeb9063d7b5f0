-- What entries say that whoever uses the store must know: their bodies, in JSON.
CREATE TABLE upgrades (
    slot INTEGER PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;
