#!/usr/bin/env -S jq -c -f
# A filter: it runs once a message, which it reads from stdin; what it prints is
# the reply. A message that is not as it should be fails: jq exits with 5.
#
#   poolinit -n 4 --deliver exec --listen tcp://0.0.0.0:8089 -- examples/filter.jq

if .uid | type == "number" then
	{uid, greeting: "hello, user \(.uid)", attempt: (env.POOLINIT_ATTEMPT | tonumber)}
else
	error("no uid in it")
end
