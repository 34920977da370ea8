module github.com/poolinit/poolinit/worker

go 1.24
