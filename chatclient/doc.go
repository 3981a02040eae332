// Package chatclient calls chatsvc the way it wants to be called: one request gets at most one answer, and gets it even
// when connections break and servers stop, start and die in between.
//
//	conn, err := chatclient.Dial("dns:///chatsvc.internal:50051", grpc.WithTransportCredentials(creds))
//	…
//	client := chatclient.New(conn, chatclient.Options{})
//	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
//	text, err := client.Stream(ctx, &chatsvcv1.CreateTurnRequest{Text: "Bonjour"}).Text()
//
// # What it repeats
//
// Every request without a request_id is given one (a UUIDv7; on a copy, the caller's message is never changed). A call that
// fails without an answer is repeated with it: after a lost connection, DRAINING, STORE_UNAVAILABLE and
// TURN_INTERRUPTED, with exponential backoff and full jitter, no sooner than the server's RetryInfo says, for as long as the
// context lives. So give it a deadline. Nothing else is repeated, above all no UPSTREAM_* reason: those turns have been tried,
// and perhaps paid, and whether they are worth another try is for the caller to say.
//
// As soon as the turn's name is known (the response header, the event accepted, or the error says it) a broken call
// is not repeated but resumed: WatchTurn reads on where the stream broke. Only if that shows that the turn has FAILED for one
// of the three reasons above, which frees its request_id, the request is sent again: at most 3 times, as each is another
// generation, and a request that brings down what serves it must not go on doing so. The error of the fourth turn is the
// call's.
//
// A request with ON_DISCONNECT_CANCEL asks for the opposite: its turn is cancelled when its connection is lost, and the
// call then ends with TURN_CANCELLED.
//
// # Servers that hang
//
// A server that hangs, or is cut off without a word, leaves its connections open. [Dial] makes connections that notice it by
// pings, within some 15 seconds; every call on them then goes on like after any lost connection. On other connections,
// streams notice it too: the server sends a heartbeat after 15 seconds of quiet, and after 32 seconds of nothing at all a
// stream counts as lost and is read on by WatchTurn, which helps if the connection balances over several servers.
// [Client.Create] has no heartbeats, and nothing but pings protects it.
//
// # What cancels a turn
//
// Because the request has an id, the turn goes on when its caller goes away. A context that is cancelled therefore calls
// CancelTurn, on a context of its own and for at most 2 seconds, before the call returns; if the turn's name is not known
// yet, the request_id finds it. So does leaving the loop over a stream early. With [Detach] neither does. Either way the
// request is never sent again once the context has ended. A deadline that passes, and a connection that is lost, never
// cancel: the turn can be read later, by its name or by repeating the request with its id. If the turn has ended before it
// could be cancelled, the call returns the answer.
//
// As the server that is asked may hang, another CancelTurn goes out while none is answered. If the turn is not known to be
// cancelled in the end, the error also is [ErrNotCancelled].
//
// # Errors
//
// Errors are gRPC statuses: use status.Code, and [Reason] for chatsvc's own reasons. When the context has ended, the error
// also is context.Canceled or context.DeadlineExceeded for errors.Is, and tells what stood in the way until then.
//
// chatsvc answers a little before the context's deadline, at most 1 second, so as to say more than that it has passed: with
// TURN_DEADLINE, and the turn's name if there is one. That too is context.DeadlineExceeded, although ctx.Err() may still
// be nil. TURN_DEADLINE with more time left than that is about a time limit of the turn's own, and is not.
package chatclient
