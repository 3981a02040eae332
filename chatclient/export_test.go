package chatclient

import "time"

// SetSilence changes how long a stream may bring nothing.
func (c *Client) SetSilence(d time.Duration) { c.silence = d }
