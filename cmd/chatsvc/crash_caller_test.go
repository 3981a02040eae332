package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// caller makes one request after the other and repeats each, with its id, until it is answered.
type caller struct {
	*storm
	number int
	random *rand.Rand
	ctx    context.Context
}

// run makes requests until the storm is over.
func (c *caller) run() {
	for n := 0; ; n++ {
		select {
		case <-c.over:
			return
		default:
		}
		a := c.compose(fmt.Sprintf("%d.%d", c.number, n))
		c.ledger.open(a)
		if c.number%2 == 0 {
			c.byHand(a)
		} else {
			c.byClient(a)
		}
		if c.random.IntN(4) == 0 { // the same again, now that it is known
			c.create(a, nil)
		}
		if c.ctx.Err() != nil {
			c.ledger.violation("unanswered", "%s has no answer, %v after the last fault", a.id, settleTime)
			return
		}
	}
}

// compose makes a request up.
func (c *caller) compose(id string) *ask {
	a := &ask{id: id, words: 5 + c.random.IntN(30), request: &chatsvcv1.CreateTurnRequest{RequestId: id}}
	pace := 15 + c.random.IntN(60)
	if c.random.IntN(2) == 0 {
		places := *c.places.Load()
		p := places[c.random.IntN(len(places))]
		a.request.Conversation, a.request.OnConflict = p.name, p.onConflict
		if p.onConflict == chatsvcv1.OnConflict_ON_CONFLICT_QUEUE {
			pace *= 3 // so that no queue grows too long to settle in time
		}
	}
	a.request.Text = question(id, a.words, pace)
	return a
}

// byHand makes a request with the generated stubs.
func (c *caller) byHand(a *ask) {
	switch c.random.IntN(6) {
	case 0:
		c.create(a, nil)
	case 1:
		c.stream(a, forever)
	case 2: // its turn is cancelled, or not
		a.request.OnDisconnect = chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL
		c.stream(a, c.random.IntN(20))
	case 3: // its turn goes on
		c.stream(a, c.random.IntN(20))
	case 4:
		c.noWait(a)
	case 5:
		other := *c
		other.random = rand.New(rand.NewPCG(c.random.Uint64(), 2))
		var both sync.WaitGroup
		both.Go(func() { c.create(a, c.direct[0]) })
		both.Go(func() { other.create(a, c.direct[len(c.direct)-1]) })
		both.Wait()
	}
}

// forever is a patience.
const forever = 1 << 30

// create calls CreateTurn until there is an answer, on any replica or on one.
func (c *caller) create(a *ask, on *client) {
	if on == nil {
		on = c.any
	}
	for tries := 0; c.ctx.Err() == nil; tries++ {
		ctx, cancel := context.WithTimeout(c.ctx, c.patience())
		turn, err := on.chat.CreateTurn(ctx, a.request)
		cancel()
		if err == nil {
			c.ledger.answered(a.id, turn)
			return
		}
		if !c.again(a, err) {
			return
		}
		on = c.any
		c.rest(tries)
	}
}

// patience is how long a caller waits before it tries again.
func (c *caller) patience() time.Duration {
	return time.Duration(1500+c.random.IntN(3000)) * time.Millisecond
}

// rest is the pause between two tries.
func (c *caller) rest(tries int) {
	select {
	case <-c.ctx.Done():
	case <-time.After(time.Duration(c.random.IntN(50<<min(tries, 4))) * time.Millisecond):
	}
}

// stream calls StreamTurn, hangs up after so many events, and then asks for the answer.
func (c *caller) stream(a *ask, patience int) {
	for tries := 0; c.ctx.Err() == nil; tries++ {
		ctx, hangUp := context.WithTimeout(c.ctx, 2*c.patience())
		stream, err := c.any.chat.StreamTurn(ctx, a.request)
		if err == nil {
			r := readingAfter("", 0)
			err = c.read(r, stream.Recv, patience)
			c.ledger.saw(r)
			if r.end != nil && r.end.GetState() <= chatsvcv1.TurnState_TURN_STATE_INCOMPLETE {
				c.ledger.answered(a.id, r.end)
			}
		}
		hangUp()
		switch {
		case errors.Is(err, io.EOF):
			return
		case errors.Is(err, errHungUp):
			c.create(a, nil)
			return
		case !c.again(a, err):
			return
		}
		c.rest(tries)
	}
}

var errHungUp = errors.New("the caller hung up")

// read reads events until there are no more, or patience ends.
func (c *caller) read(r *reading, next func() (*chatsvcv1.TurnEvent, error), patience int) error {
	for n := 0; ; n++ {
		if n > patience {
			return errHungUp
		}
		e, err := next()
		if err != nil {
			return err
		}
		r.add(e)
	}
}

// noWait has the turn recorded, and then watches it.
func (c *caller) noWait(a *ask) {
	request := proto.CloneOf(a.request)
	request.Wait = chatsvcv1.Wait_WAIT_NO_WAIT
	for tries := 0; c.ctx.Err() == nil; tries++ {
		ctx, cancel := context.WithTimeout(c.ctx, c.patience())
		turn, err := c.any.chat.CreateTurn(ctx, request)
		cancel()
		if err == nil {
			c.ledger.change(a.id, func(a *ask) { a.recorded = append(a.recorded, turn.GetName()) })
			c.watch(a, turn.GetName())
			return
		}
		if !c.again(a, err) {
			return
		}
		c.rest(tries)
	}
}

// watch reads a turn of a request to its end, over as many calls as it takes, from where the last one broke.
func (c *caller) watch(a *ask, name string) {
	r := readingAfter(name, 0)
	defer func() { c.ledger.saw(r) }()
	for tries := 0; c.ctx.Err() == nil; tries++ {
		ctx, cancel := context.WithTimeout(c.ctx, 2*c.patience())
		stream, err := c.any.chat.WatchTurn(ctx, &chatsvcv1.WatchTurnRequest{Name: name, AfterSequence: r.last})
		if err == nil {
			err = c.read(r, stream.Recv, forever)
		}
		cancel()
		switch {
		case errors.Is(err, io.EOF) && r.end.GetState() == chatsvcv1.TurnState_TURN_STATE_FAILED:
			return // NO_WAIT was told that it was recorded, not that it would be answered
		case errors.Is(err, io.EOF):
			c.ledger.answered(a.id, r.end)
			return
		case !c.again(a, err):
			return
		}
		c.rest(tries)
	}
}

// byClient makes a request with the package for it.
func (c *caller) byClient(a *ask) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	switch c.random.IntN(5) {
	case 0:
		turn, err := c.helper.Create(ctx, a.request)
		c.settle(a, turn, err)
	case 1:
		c.events(a, c.helper.Stream(ctx, a.request), forever, cancel)
	case 2: // its turn is cancelled, unless it was quicker
		c.events(a, c.helper.Stream(ctx, a.request), c.random.IntN(20), cancel)
	case 3: // its turn goes on
		c.events(a, c.helper.Stream(ctx, a.request, chatclient.Detach()), c.random.IntN(20), cancel)
	case 4:
		request := proto.CloneOf(a.request)
		request.Wait = chatsvcv1.Wait_WAIT_NO_WAIT
		turn, err := c.helper.Create(ctx, request)
		if err != nil {
			c.settle(a, nil, err)
			return
		}
		c.ledger.change(a.id, func(a *ask) { a.recorded = append(a.recorded, turn.GetName()) })
		c.events(a, c.helper.Watch(ctx, turn.GetName(), 0), forever, cancel)
	}
}

// events reads a stream of chatclient, and cancels its context after so many events; then it asks for the answer.
func (c *caller) events(a *ask, stream *chatclient.Stream, patience int, hangUp context.CancelFunc) {
	r := readingAfter("", 0)
	n, hungUp := 0, false
	var failure error
	for e, err := range stream.Events() {
		switch {
		case err != nil:
			failure = err
			continue
		case e.GetSequence() == 0 && e.GetOutputReset() != nil: // chatclient's own: another turn follows, or the end
			c.ledger.saw(r)
			r = readingAfter("", 0)
			continue
		case e.GetAccepted() != nil && r.turn != "" && e.GetAccepted().GetTurn() != r.turn: // another turn, and no output to be voided
			c.ledger.saw(r)
			r = readingAfter("", 0)
		case e.GetTerminal() != nil && (hungUp || len(r.events) == 0): // chatclient's own, in place of what was not read
			continue
		}
		r.add(e)
		if n++; n > patience && !hungUp {
			hungUp = true
			hangUp()
		}
	}
	c.ledger.saw(r)
	if hungUp && status.Code(failure) == codes.Canceled || failure != nil && chatclient.Reason(failure) == chatsvcv1.ErrorReason_ERROR_REASON_TURN_INTERRUPTED {
		c.create(a, nil)
		return
	}
	c.settle(a, stream.Turn(), failure)
}

// settle notes how a call of chatclient ended, which repeats by itself whatever can be repeated.
func (c *caller) settle(a *ask, turn *chatsvcv1.Turn, err error) {
	switch {
	case err == nil:
		c.ledger.answered(a.id, turn)
	case c.ctx.Err() == nil && c.again(a, err):
		c.ledger.violation("chatclient gave up", "%s: %v", a.id, err)
	}
}

// again notes an error and reports whether the request is to be repeated.
func (c *caller) again(a *ask, err error) bool {
	reason, turn := reasonOf(err)
	switch code := status.Code(err); {
	case c.ctx.Err() != nil:
		return false
	case reason == "TURN_CANCELLED":
		c.ledger.cancelled(a.id, turn)
		return false
	case reason == "CONVERSATION_BUSY" && a.request.GetOnConflict() != chatsvcv1.OnConflict_ON_CONFLICT_FORK:
		c.ledger.change(a.id, func(a *ask) { a.refused = true })
		return false
	case slices.Contains([]string{"DRAINING", "STORE_UNAVAILABLE", "TURN_INTERRUPTED", "TURN_DEADLINE"}, reason):
		c.ledger.heard(reason)
		return true
	case reason == "" && (code == codes.Unavailable || code == codes.DeadlineExceeded):
		c.ledger.heard(code.String())
		return true
	default:
		c.ledger.violation("unexpected error", "%s: %v %s", a.id, err, reason)
		return false
	}
}

// reasonOf returns what chatsvc says about an error: its reason, and the turn that it is about.
func reasonOf(err error) (reason, turn string) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason(), info.GetMetadata()["turn"]
		}
	}
	return "", ""
}
