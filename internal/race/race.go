// Package race is the old path of internal/testkit/race. It is here until the last
// test has moved on.
package race

import "github.com/poolinit/poolinit/internal/testkit/race"

// On is whether the race detector is in the test.
const On = race.On
