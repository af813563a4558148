/* An ICE end over libnice, for tests: libnice_peer controlling|controlled IP DATAGRAMS udp|tcp
 *
 * Writes its credentials and candidates as lines ("ufrag ...", "pwd ...", "candidate:...",
 * "end-of-candidates"), reads the other side's in
 * the same form, connects, and writes "connected LOCAL REMOTE". As many datagrams as the third argument says are sent, each
 * after the echo of the one before, and "echoed N" is written; with 0, what comes is sent back until standard input ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nice/agent.h>

static GMainLoop *loop;
static guint stream;
static guint wanted, echoed;
static gboolean connected, over_tcp;

static gboolean send_next(gpointer agent)
{
    char text[32];
    int size = snprintf(text, sizeof text, "libnice %u", echoed);
    nice_agent_send(agent, stream, 1, (guint)size, text);
    return G_SOURCE_REMOVE;
}

static void on_receive(NiceAgent *agent, guint stream_id, guint component, guint size, gchar *data, gpointer user)
{
    (void)user;
    if (wanted == 0) {
        nice_agent_send(agent, stream_id, component, size, data);
        return;
    }
    char expected[32];
    guint len = (guint)snprintf(expected, sizeof expected, "libnice %u", echoed);
    if (size != len || memcmp(data, expected, len) != 0)
        return;
    echoed++;
    if (echoed < wanted) {
        send_next(agent);
        return;
    }
    printf("echoed %u\n", echoed);
    fflush(stdout);
    g_main_loop_quit(loop);
}

static void print_address(const NiceCandidate *candidate)
{
    gchar ip[NICE_ADDRESS_STRING_LEN];
    nice_address_to_string(&candidate->addr, ip);
    printf(" %s:%u", ip, nice_address_get_port(&candidate->addr));
}

static void on_state(NiceAgent *agent, guint stream_id, guint component, guint state, gpointer user)
{
    NiceCandidate *local, *remote;
    (void)user;
    if (state == NICE_COMPONENT_STATE_FAILED) {
        printf("failed\n");
        exit(1);
    }
    if (state != NICE_COMPONENT_STATE_READY || connected)
        return;
    if (!nice_agent_get_selected_pair(agent, stream_id, component, &local, &remote))
        return;
    connected = TRUE;
    printf("connected");
    print_address(local);
    print_address(remote);
    printf("\n");
    fflush(stdout);
    if (wanted > 0)
        g_idle_add(send_next, agent);
}

static void on_gathered(NiceAgent *agent, guint stream_id, gpointer user)
{
    gchar *ufrag, *pwd;
    GSList *candidates, *each;
    (void)user;
    nice_agent_get_local_credentials(agent, stream_id, &ufrag, &pwd);
    printf("ufrag %s\npwd %s\n", ufrag, pwd);
    candidates = nice_agent_get_local_candidates(agent, stream_id, 1);
    for (each = candidates; each; each = each->next) {
        NiceCandidate *candidate = each->data;
        if ((candidate->transport == NICE_CANDIDATE_TRANSPORT_UDP) == over_tcp)
            continue;
        gchar *line = nice_agent_generate_local_candidate_sdp(agent, candidate);
        printf("%s\n", line + strlen("a="));
        g_free(line);
    }
    printf("end-of-candidates\n");
    fflush(stdout);
    g_slist_free_full(candidates, (GDestroyNotify)nice_candidate_free);
    g_free(ufrag);
    g_free(pwd);
}

/* Lines of the other side; in this mode they come all at once. */
static gboolean on_input(GIOChannel *input, GIOCondition condition, gpointer agent)
{
    static gchar *ufrag, *pwd;
    static GSList *candidates;
    gchar *line;
    (void)condition;
    if (g_io_channel_read_line(input, &line, NULL, NULL, NULL) != G_IO_STATUS_NORMAL) {
        g_main_loop_quit(loop);
        return G_SOURCE_REMOVE;
    }
    g_strstrip(line);
    if (g_str_has_prefix(line, "ufrag ")) {
        ufrag = g_strdup(line + strlen("ufrag "));
    } else if (g_str_has_prefix(line, "pwd ")) {
        pwd = g_strdup(line + strlen("pwd "));
    } else if (g_str_has_prefix(line, "candidate:")) {
        gchar *sdp = g_strconcat("a=", line, NULL);
        NiceCandidate *candidate = nice_agent_parse_remote_candidate_sdp(agent, stream, sdp);
        if (candidate)
            candidates = g_slist_append(candidates, candidate);
        g_free(sdp);
    } else if (strcmp(line, "end-of-candidates") == 0) {
        nice_agent_set_remote_credentials(agent, stream, ufrag, pwd);
        nice_agent_set_remote_candidates(agent, stream, 1, candidates);
    }
    g_free(line);
    return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
    NiceAddress address;
    if (argc != 5 || !nice_address_set_from_string((nice_address_init(&address), &address), argv[2])) {
        fprintf(stderr, "usage: libnice_peer controlling|controlled IP DATAGRAMS udp|tcp\n");
        return 2;
    }
    wanted = (guint)atoi(argv[3]);
    over_tcp = strcmp(argv[4], "tcp") == 0;
    loop = g_main_loop_new(NULL, FALSE);
    NiceAgent *agent = nice_agent_new(g_main_loop_get_context(loop), NICE_COMPATIBILITY_RFC5245);
    g_object_set(agent, "controlling-mode", strcmp(argv[1], "controlling") == 0, "ice-udp", !over_tcp, "ice-tcp", over_tcp,
                 "upnp", FALSE, NULL);
    nice_agent_add_local_address(agent, &address);
    g_signal_connect(agent, "candidate-gathering-done", G_CALLBACK(on_gathered), NULL);
    g_signal_connect(agent, "component-state-changed", G_CALLBACK(on_state), NULL);
    stream = nice_agent_add_stream(agent, 1);
    nice_agent_attach_recv(agent, stream, 1, g_main_loop_get_context(loop), on_receive, NULL);
    GIOChannel *input = g_io_channel_unix_new(0);
    g_io_add_watch(input, G_IO_IN | G_IO_HUP, on_input, agent);
    if (!nice_agent_gather_candidates(agent, stream)) {
        fprintf(stderr, "libnice cannot gather on %s\n", argv[2]);
        return 1;
    }
    g_main_loop_run(loop);
    g_object_unref(agent);
    return 0;
}
