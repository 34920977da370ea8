package main

import "github.com/poolinit/poolinit/ipc"

// openShares binds every shared socket, or none. They stay open until the
// workers are gone: what connects between two of them waits.
func openShares(shares []*ipc.Share) (closeAll func(), err error) {
	var open []*ipc.Share
	closeAll = func() {
		for _, s := range open {
			s.Close()
		}
	}
	for _, s := range shares {
		if err := s.Open(); err != nil {
			closeAll()
			return nil, err
		}
		open = append(open, s)
	}
	return closeAll, nil
}
