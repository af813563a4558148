/*
 * Thirl's ICE agent (RFC 8445) for C.
 *
 * An application creates an agent, carries its description to the peer in whatever way it has, sets the peer's, and sends
 * and receives datagrams over the path that the agents find. In this order:
 *
 *     thirl_ice_create            what the agent is told, and the callbacks
 *     thirl_ice_gather            sockets are bound, servers are asked; on_candidate and on_gathered say what is found
 *     thirl_ice_local_description for the peer; before gathering it has the credentials alone, for trickle (RFC 8838)
 *     thirl_ice_set_remote_description, thirl_ice_add_remote_candidate, thirl_ice_end_of_candidates
 *                                 what the peer has told, before gathering or after
 *     thirl_ice_send, on_receive  as soon as on_state has said THIRL_ICE_CONNECTED
 *     thirl_ice_destroy
 *
 * Functions return a negative thirl_ice_error, or zero or a length. They may be called from any thread, and from
 * callbacks, as long as the agent is not destroyed meanwhile. Text is UTF-8 and ends with a zero byte.
 *
 * Callbacks of one agent come one at a time, from a thread of the library, and should not block.
 */
#ifndef THIRL_ICE_H
#define THIRL_ICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The names are those of W3C's RTCIceConnectionState. */
typedef enum thirl_ice_state {
    THIRL_ICE_NEW = 0,          /* the peer's credentials or candidates are not known yet */
    THIRL_ICE_CHECKING = 1,     /* candidate pairs are being checked */
    THIRL_ICE_CONNECTED = 2,    /* a pair works and carries data; none is nominated yet */
    THIRL_ICE_COMPLETED = 3,    /* a pair is nominated */
    THIRL_ICE_DISCONNECTED = 4, /* the selected pair has not answered for some time; others are tried */
    THIRL_ICE_FAILED = 5,       /* nothing works: thirl_ice_report says why */
    THIRL_ICE_CLOSED = 6
} thirl_ice_state;

typedef enum thirl_ice_error {
    THIRL_ICE_OK = 0,
    THIRL_ICE_INVALID = -1,     /* an argument is null or not what it should be */
    THIRL_ICE_SYSTEM = -2,      /* the system gives no socket, no thread or no randomness */
    THIRL_ICE_NOT_YET = -3,     /* the agent is not that far: not gathering, or not connected */
    THIRL_ICE_GONE = -4,        /* the path is lost */
    THIRL_ICE_AGAIN = -5,       /* the socket has no room now: the datagram was not sent */
    THIRL_ICE_TOO_LARGE = -6,   /* the datagram is larger than UDP can carry */
    THIRL_ICE_NO_ROOM = -7      /* the buffer is too small for the text and its zero byte */
} thirl_ice_error;

typedef struct thirl_ice_agent thirl_ice_agent;

/* A STUN server ("stun:host", "stun:host:port"), or a TURN server ("turn:host?transport=tcp", "turns:host" for TLS) with user
 * and password. */
typedef struct thirl_ice_server {
    const char *uri;
    const char *username; /* null for a STUN server */
    const char *password; /* null for a STUN server */
} thirl_ice_server;

/* The texts and data that callbacks are given last until they return. `user` is that of the configuration. */
typedef void (*thirl_ice_on_state)(thirl_ice_agent *agent, thirl_ice_state state, void *user);
typedef void (*thirl_ice_on_candidate)(thirl_ice_agent *agent, const char *candidate, void *user);
typedef void (*thirl_ice_on_gathered)(thirl_ice_agent *agent, void *user);
typedef void (*thirl_ice_on_receive)(thirl_ice_agent *agent, const uint8_t *data, size_t size, void *user);

/* All zero is a configuration: the peer nominates, no servers, sockets on all addresses, no callbacks. */
typedef struct thirl_ice_config {
    int controlling;                 /* not zero: this side nominates. Whoever makes the offer should. */
    int relay_only;                  /* not zero: only relayed candidates, so that the peer learns no address of this host */
    const char *bind_address;        /* an IP address to bind a socket on, in place of all; null for all */
    const thirl_ice_server *servers;
    size_t server_count;
    thirl_ice_on_state on_state;
    thirl_ice_on_candidate on_candidate;
    thirl_ice_on_gathered on_gathered;
    thirl_ice_on_receive on_receive;
    void *user;
} thirl_ice_config;

/* Nothing of the configuration is kept but the callbacks and `user`. Writes the agent to `agent`. */
int thirl_ice_create(const thirl_ice_config *config, thirl_ice_agent **agent);

/* Waits until the names of the servers are resolved, at most some seconds; not until candidates are found. */
int thirl_ice_gather(thirl_ice_agent *agent);

/* Lines of SDP (RFC 8839), each ending with "\r\n". Returns the length without the zero byte. 4096 bytes are plenty. Keep
 * it from others: with the password in it one can take the peer's place. */
int thirl_ice_local_description(thirl_ice_agent *agent, char *buffer, size_t size);

/* SDP with the peer's ice-ufrag, ice-pwd, candidates, options, and perhaps end-of-candidates, each as "a=..."; other lines
 * are passed over. */
int thirl_ice_set_remote_description(thirl_ice_agent *agent, const char *sdp);

/* "candidate:..." or "a=candidate:...", as on_candidate gives it. */
int thirl_ice_add_remote_candidate(thirl_ice_agent *agent, const char *candidate);

/* The peer will tell no more candidates: without it, an agent to which nothing works says so later. */
int thirl_ice_end_of_candidates(thirl_ice_agent *agent);

/* Sends a datagram, and never waits. It may be lost, doubled or reordered, as with UDP. */
int thirl_ice_send(thirl_ice_agent *agent, const void *data, size_t size);

thirl_ice_state thirl_ice_get_state(thirl_ice_agent *agent);
const char *thirl_ice_state_name(thirl_ice_state state);

/* The candidate pair that data is sent over now: "candidate:..." of this side and of the peer. Either may be null. */
int thirl_ice_selected_candidates(
    thirl_ice_agent *agent, char *local, size_t local_size, char *remote, size_t remote_size);

/* The same as addresses: "192.0.2.1:3478", "[2001:db8::1]:3478". */
int thirl_ice_selected_addresses(
    thirl_ice_agent *agent, char *local, size_t local_size, char *remote, size_t remote_size);

/* What happened and why, in words. Returns the length without the zero byte; 16384 bytes are plenty. */
int thirl_ice_report(thirl_ice_agent *agent, char *buffer, size_t size);

/* Ends the agent and frees it. Once this has returned, no callback comes; called from a callback of the agent itself, none
 * comes after that one. Null does nothing. */
void thirl_ice_destroy(thirl_ice_agent *agent);

#ifdef __cplusplus
}
#endif
#endif
