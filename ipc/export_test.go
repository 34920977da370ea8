package ipc

// For tests outside of this package, which have sources.
const (
	AutoAhead   = autoAhead
	KeepFrame   = keepFrame
	ReplyBuffer = replyBuffer
)

// HasTimer reports whether the message timeout runs.
func (c *Channel) HasTimer() bool {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	return c.timer != nil
}
