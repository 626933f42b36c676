package twotower

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key}
}

func (a *authority) sign(t *testing.T, name string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func TestTLSKnowsTheServer(t *testing.T) {
	ours := newAuthority(t)
	server := serve(t, sequence(served), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ours.sign(t, "recommend.example")},
	})))
	trusting := WithTLS(&tls.Config{RootCAs: ours.pool(), ServerName: "recommend.example"})
	if _, err := dial(t, server.target, trusting).EmbedUser(t.Context(), someone); err != nil {
		t.Error(err)
	}
	for name, option := range map[string]Option{
		"another name":      WithTLS(&tls.Config{RootCAs: ours.pool(), ServerName: "other.example"}),
		"another authority": WithTLS(&tls.Config{RootCAs: newAuthority(t).pool(), ServerName: "recommend.example"}),
		"the system's":      WithTLS(nil),
		"plaintext":         WithTimeout(5 * time.Second),
	} {
		_, err := dial(t, server.target, option, WithRetry(Retry{Attempts: 1})).EmbedUser(t.Context(), someone)
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if calls := len(server.received()); calls != 1 {
		t.Errorf("%d calls came through", calls)
	}
}

func TestMutualTLSShowsTheClientsCertificate(t *testing.T) {
	ours := newAuthority(t)
	server := serve(t, sequence(served), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ours.sign(t, "recommend.example")},
		ClientCAs:    ours.pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	config := &tls.Config{RootCAs: ours.pool(), ServerName: "recommend.example"}
	once := WithRetry(Retry{Attempts: 1})
	if _, err := dial(t, server.target, WithTLS(config), once).EmbedUser(t.Context(), someone); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a certificate: %v", err)
	}
	config = config.Clone()
	config.Certificates = []tls.Certificate{ours.sign(t, "pipeline")}
	if _, err := dial(t, server.target, WithTLS(config), once).EmbedUser(t.Context(), someone); err != nil {
		t.Error(err)
	}
}

func TestTokensTravelWithEveryCall(t *testing.T) {
	ours := newAuthority(t)
	server := serve(t, sequence(served), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ours.sign(t, "recommend.example")},
	})))
	trusting := WithTLS(&tls.Config{RootCAs: ours.pool(), ServerName: "recommend.example"})
	var asked atomic.Int32
	renewed := WithTokenSource(func(context.Context) (string, error) { return strconv.Itoa(int(asked.Add(1))), nil })
	client := dial(t, server.target, trusting, renewed)
	for range 2 {
		if _, err := client.EmbedUser(t.Context(), someone); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := dial(t, server.target, trusting, WithToken("fixed")).EmbedUser(t.Context(), someone); err != nil {
		t.Fatal(err)
	}
	for i, call := range server.received() {
		want := "Bearer " + []string{"1", "2", "fixed"}[i]
		if got := call.metadata.Get("authorization"); len(got) != 1 || got[0] != want {
			t.Errorf("call %d has %v, want %s", i, got, want)
		}
	}
	failing := WithTokenSource(func(context.Context) (string, error) { return "", errors.New("no token today") })
	if _, err := dial(t, server.target, trusting, failing, fast).EmbedUser(t.Context(), someone); err == nil {
		t.Error("a call without its token came through")
	}
}
