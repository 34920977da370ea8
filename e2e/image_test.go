package e2e

import "testing"

func TestImage(t *testing.T) {
	t.Log(productImage(t))
}
