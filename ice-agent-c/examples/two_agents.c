/* Two agents on this machine's loopback find a path and exchange datagrams.
 *
 *     cc -I ice-agent-c/include two_agents.c -L target/debug -lthirl_ice -lpthread -o two_agents
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "thirl_ice.h"

#define MESSAGES 100
#define LIMIT_SECONDS 20

/* What one agent has come to. */
struct side {
    const char *name;
    thirl_ice_agent *agent;
    thirl_ice_agent *peer;
    int gathered;
    int connected;
    int received;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void set(int *what)
{
    pthread_mutex_lock(&lock);
    *what += 1;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for(const char *awaited, const int *what, int value)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_SECONDS;
    pthread_mutex_lock(&lock);
    while (*what < value) {
        if (pthread_cond_timedwait(&changed, &lock, &limit) != 0) {
            fprintf(stderr, "%s did not come within %d s\n", awaited, LIMIT_SECONDS);
            exit(1);
        }
    }
    pthread_mutex_unlock(&lock);
}

static void must(const char *what, int result)
{
    if (result < 0) {
        fprintf(stderr, "%s: error %d\n", what, result);
        exit(1);
    }
}

static void on_state(thirl_ice_agent *agent, thirl_ice_state state, void *user)
{
    struct side *side = user;
    (void)agent;
    printf("%s: %s\n", side->name, thirl_ice_state_name(state));
    if (state == THIRL_ICE_COMPLETED)
        set(&side->connected);
}

/* Trickle: each candidate goes to the peer as soon as it is found. */
static void on_candidate(thirl_ice_agent *agent, const char *candidate, void *user)
{
    struct side *side = user;
    (void)agent;
    must("add_remote_candidate", thirl_ice_add_remote_candidate(side->peer, candidate));
}

static void on_gathered(thirl_ice_agent *agent, void *user)
{
    struct side *side = user;
    (void)agent;
    must("end_of_candidates", thirl_ice_end_of_candidates(side->peer));
    set(&side->gathered);
}

static void on_receive(thirl_ice_agent *agent, const uint8_t *data, size_t size, void *user)
{
    struct side *side = user;
    (void)agent;
    if (size >= 5 && memcmp(data, "thirl", 5) == 0)
        set(&side->received);
}

static thirl_ice_agent *create(struct side *side, int controlling)
{
    thirl_ice_config config;
    memset(&config, 0, sizeof config);
    config.controlling = controlling;
    config.bind_address = "127.0.0.1";
    config.on_state = on_state;
    config.on_candidate = on_candidate;
    config.on_gathered = on_gathered;
    config.on_receive = on_receive;
    config.user = side;
    must("create", thirl_ice_create(&config, &side->agent));
    return side->agent;
}

static void tell(thirl_ice_agent *from, thirl_ice_agent *to)
{
    char description[4096];
    must("local_description", thirl_ice_local_description(from, description, sizeof description));
    must("set_remote_description", thirl_ice_set_remote_description(to, description));
}

int main(void)
{
    struct side alice, bob;
    char local[256], remote[256], text[32], report[16384];
    int i;

    memset(&alice, 0, sizeof alice);
    memset(&bob, 0, sizeof bob);
    alice.name = "alice";
    bob.name = "bob";
    bob.peer = create(&alice, 1);
    alice.peer = create(&bob, 0);

    if (thirl_ice_send(alice.agent, "early", 5) != THIRL_ICE_NOT_YET)
        return 1;
    tell(alice.agent, bob.agent);
    must("gather", thirl_ice_gather(alice.agent));
    tell(bob.agent, alice.agent);
    must("gather", thirl_ice_gather(bob.agent));
    wait_for("alice's candidates", &alice.gathered, 1);
    wait_for("bob's candidates", &bob.gathered, 1);
    wait_for("alice's path", &alice.connected, 1);
    wait_for("bob's path", &bob.connected, 1);

    for (i = 0; i < MESSAGES; i++) {
        int size = snprintf(text, sizeof text, "thirl %d", i);
        must("send", thirl_ice_send(alice.agent, text, (size_t)size));
        wait_for("a datagram at bob", &bob.received, i + 1);
        must("send", thirl_ice_send(bob.agent, text, (size_t)size));
        wait_for("a datagram at alice", &alice.received, i + 1);
    }
    must("selected_addresses",
        thirl_ice_selected_addresses(alice.agent, local, sizeof local, remote, sizeof remote));
    printf("alice %s, bob %s: %d datagrams each way\n", local, remote, MESSAGES);
    must("selected_candidates", thirl_ice_selected_candidates(bob.agent, local, sizeof local, NULL, 0));
    printf("bob's %s\n", local);
    must("report", thirl_ice_report(alice.agent, report, sizeof report));
    if (thirl_ice_local_description(alice.agent, local, 8) != THIRL_ICE_NO_ROOM)
        return 1;

    thirl_ice_destroy(alice.agent);
    thirl_ice_destroy(bob.agent);
    return 0;
}
