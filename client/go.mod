module github.com/poolinit/poolinit/client

go 1.24
