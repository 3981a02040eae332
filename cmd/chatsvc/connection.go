package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// maxReply holds the largest turn: an answer of 3 MiB stands in it twice, in parts and as text for people. A page of the
// control plane is asked for so small that it fits, too.
const maxReply = 16 << 20

// keyVariable is the environment variable that holds the key.
const keyVariable = "CHATSVC_KEY"

// chatEnvironment returns the names of the environment variables that are read by the commands which call a service.
func chatEnvironment() []string {
	return []string{"CHATSVC_ADDRESS", "CHATSVC_ADMIN_ADDRESS", keyVariable}
}

// connection is the flags that say which service to call, and as whom. Who embeds it sets the variables address and variable,
// the default of --address and the name of its environment variable, and callee, what is there.
//
// The key has no flag: what stands on a command line is seen by every user of the machine.
type connection struct {
	Address           string `default:"${address}" env:"${variable}" placeholder:"HOST:PORT" help:"Where ${callee} listens (${default})."`
	KeyFile           string `placeholder:"FILE" help:"Read the key from this file. Otherwise it is CHATSVC_KEY, or the key of --dev for an address on this machine."`
	TLSCA             string `name:"tls-ca" xor:"transport" placeholder:"FILE" help:"Use TLS and trust the certificates in this PEM file, instead of the system's."`
	TLSCert           string `name:"tls-cert" xor:"mutual" and:"pair" placeholder:"FILE" help:"Use TLS and present the certificate in this PEM file. No key is needed then; CHATSVC_KEY and --key-file win over it."`
	TLSKey            string `name:"tls-key" and:"pair" placeholder:"FILE" help:"The private key of --tls-cert, in PEM."`
	InsecurePlaintext bool   `xor:"transport,mutual" help:"Use no TLS: the key and all that is said cross the network in the clear. The default for an address on this machine."`
}

// Validate refuses an address that is none.
func (c *connection) Validate() error {
	_, err := isLocal(c.Address)
	return err
}

// dial prepares the connection; it is made by the first call.
func (c *connection) dial(options ...grpc.DialOption) (*grpc.ClientConn, error) {
	local, err := isLocal(c.Address)
	if err != nil {
		return nil, err
	}
	key, _, err := c.key(local)
	if err != nil {
		return nil, err
	}
	transport, plaintext := insecure.NewCredentials(), c.InsecurePlaintext || local && c.TLSCA == "" && c.TLSCert == ""
	if !plaintext {
		config, err := c.tls()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(config)
	}
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
		grpc.WithUserAgent("chatsvc-cli/" + version),
		// A person who has just started the service does not wait two minutes for the next attempt.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, options...)
	if key != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearerKey{key: key, needsTLS: !plaintext}))
	}
	conn, err := grpc.NewClient(c.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.Address, err)
	}
	return conn, nil
}

// key returns the key to send, or none where a certificate says who calls; guessed is that nobody has given it. Errors never
// repeat it.
func (c *connection) key(local bool) (key string, guessed bool, err error) {
	key, source := os.Getenv(keyVariable), keyVariable
	switch {
	case c.KeyFile != "":
		content, err := os.ReadFile(c.KeyFile)
		if err != nil {
			return "", false, fmt.Errorf("read the key: %w", err)
		}
		key, source = string(content), c.KeyFile
	case key == "" && c.TLSCert != "":
		return "", false, nil
	case key == "" && local:
		return "dev", true, nil
	case key == "":
		return "", false, fmt.Errorf("%s needs a key: set CHATSVC_KEY, or give --key-file or --tls-cert", c.Address)
	}
	key = strings.TrimSpace(key)
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }) {
		return "", false, fmt.Errorf("%s does not hold a key: one line of visible ASCII characters without spaces", source)
	}
	return key, false, nil
}

// tls returns whom to trust and what to present.
func (c *connection) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLSCA != "" {
		var err error
		if config.RootCAs, err = readCertificates(c.TLSCA); err != nil {
			return nil, err
		}
	}
	if c.TLSCert != "" {
		certificate, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		switch now := time.Now(); {
		case now.After(certificate.Leaf.NotAfter):
			return nil, fmt.Errorf("the client certificate in %s has ended, at %s", c.TLSCert, certificate.Leaf.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(certificate.Leaf.NotBefore):
			return nil, fmt.Errorf("the client certificate in %s is valid from %s on", c.TLSCert, certificate.Leaf.NotBefore.UTC().Format(time.RFC3339))
		}
		// Not Certificates, of which one from an authority that the service does not name is left out: it would say that
		// there is none, and not that it is the wrong one.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	return config, nil
}

// bearerKey sends a key with every call, and only over TLS where needsTLS says so.
type bearerKey struct {
	key      string
	needsTLS bool
}

var _ credentials.PerRPCCredentials = bearerKey{}

// GetRequestMetadata returns the authorization header.
func (b bearerKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.key}, nil
}

// RequireTransportSecurity reports whether the key must not be sent in the clear.
func (b bearerKey) RequireTransportSecurity() bool { return b.needsTLS }

// isLocal reports whether address never leaves this machine. By name that is only localhost: what another name means
// is for a resolver to say, which may be wrong.
func isLocal(address string) (bool, error) {
	if strings.HasPrefix(address, "unix:") {
		return true, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return false, fmt.Errorf("--address %q is not a host and a port, such as localhost:50051", address)
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback(), nil
}

func readCertificates(file string) (*x509.CertPool, error) {
	text, err := readPEM(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	all, err := certificatesIn(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", file, err)
	}
	return poolOf(all), nil
}
