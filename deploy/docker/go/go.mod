module example.com/pool-go

go 1.24

require github.com/poolinit/poolinit/worker v0.0.0

// Outside of this repository: go get github.com/poolinit/poolinit/worker@latest
replace github.com/poolinit/poolinit/worker v0.0.0 => ../../../worker
