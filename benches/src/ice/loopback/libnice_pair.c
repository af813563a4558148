/* Two libnice agents in one process, for `thirl-bench ice`.
 *
 * It prints the port of each on a line of its own, reads lines "0 candidate:..." and "1 candidate:..." (what the first
 * and the second is told of the other) until "go", connects, and prints for each "works MICROSECONDS" and
 * "nominated MICROSECONDS" after its number. */
#include <nice/agent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  NiceAgent *agent;
  guint stream;
  GSList *told;
  gint64 works, nominated;
  gboolean gathered;
} Side;

static Side sides[2];
static GMainLoop *loop;
static gint64 start;

static Side *side_of(NiceAgent *agent) { return agent == sides[0].agent ? &sides[0] : &sides[1]; }

static gboolean on_selected_by_both(gpointer unused) {
  (void)unused;
  if (sides[0].nominated >= 0 && sides[1].nominated >= 0 && sides[0].works >= 0 && sides[1].works >= 0)
    g_main_loop_quit(loop);
  return G_SOURCE_CONTINUE;
}

static void on_gathered(NiceAgent *agent, guint stream, gpointer unused) {
  (void)stream, (void)unused;
  side_of(agent)->gathered = TRUE;
  if (sides[0].gathered && sides[1].gathered) g_main_loop_quit(loop);
}

static void on_state(NiceAgent *agent, guint stream, guint component, guint state, gpointer unused) {
  (void)stream, (void)component, (void)unused;
  Side *side = side_of(agent);
  if (state >= NICE_COMPONENT_STATE_CONNECTED && state < NICE_COMPONENT_STATE_FAILED && side->works < 0)
    side->works = g_get_monotonic_time() - start;
}

/* Long before it calls the component ready. */
static void on_selected(NiceAgent *agent, guint stream, guint component, gchar *local, gchar *remote, gpointer unused) {
  (void)stream, (void)component, (void)local, (void)remote, (void)unused;
  Side *side = side_of(agent);
  if (side->nominated < 0) side->nominated = g_get_monotonic_time() - start;
  g_timeout_add(1, on_selected_by_both, NULL);
}

static void on_data(NiceAgent *agent, guint stream, guint component, guint len, gchar *data, gpointer unused) {
  (void)agent, (void)stream, (void)component, (void)len, (void)data, (void)unused;
}

static gboolean on_limit(gpointer unused) {
  (void)unused;
  g_main_loop_quit(loop);
  return G_SOURCE_REMOVE;
}

static void start_side(Side *side, gboolean controlling) {
  NiceAddress address;
  side->agent = nice_agent_new(g_main_loop_get_context(loop), NICE_COMPATIBILITY_RFC5245);
  side->works = side->nominated = -1;
  g_object_set(side->agent, "controlling-mode", controlling, "upnp", FALSE, "ice-tcp", FALSE, NULL);
  g_signal_connect(side->agent, "candidate-gathering-done", G_CALLBACK(on_gathered), NULL);
  g_signal_connect(side->agent, "component-state-changed", G_CALLBACK(on_state), NULL);
  g_signal_connect(side->agent, "new-selected-pair", G_CALLBACK(on_selected), NULL);
  nice_address_init(&address);
  nice_address_set_from_string(&address, "127.0.0.1");
  nice_agent_add_local_address(side->agent, &address);
  side->stream = nice_agent_add_stream(side->agent, 1);
  nice_agent_attach_recv(side->agent, side->stream, 1, g_main_loop_get_context(loop), on_data, NULL);
  if (!nice_agent_gather_candidates(side->agent, side->stream)) exit(2);
}

static guint port_of(Side *side) {
  GSList *found = nice_agent_get_local_candidates(side->agent, side->stream, 1);
  guint port = found ? nice_address_get_port(&((NiceCandidate *)found->data)->addr) : 0;
  g_slist_free_full(found, (GDestroyNotify)nice_candidate_free);
  return port;
}

static void read_told(void) {
  char line[512], prefixed[520];
  while (fgets(line, sizeof line, stdin) && strncmp(line, "go", 2) != 0) {
    Side *side = &sides[line[0] == '1'];
    line[strcspn(line, "\r\n")] = 0;
    snprintf(prefixed, sizeof prefixed, "a=%s", line + 2);
    NiceCandidate *candidate = nice_agent_parse_remote_candidate_sdp(side->agent, side->stream, prefixed);
    if (candidate) side->told = g_slist_append(side->told, candidate);
  }
}

int main(void) {
  int n;
  loop = g_main_loop_new(NULL, FALSE);
  start_side(&sides[0], TRUE);
  start_side(&sides[1], FALSE);
  if (!sides[0].gathered || !sides[1].gathered) g_main_loop_run(loop);
  for (n = 0; n < 2; n++) printf("%u\n", port_of(&sides[n]));
  fflush(stdout);
  read_told();
  start = g_get_monotonic_time();
  for (n = 0; n < 2; n++) {
    gchar *ufrag, *pwd;
    nice_agent_get_local_credentials(sides[n].agent, sides[n].stream, &ufrag, &pwd);
    nice_agent_set_remote_credentials(sides[1 - n].agent, sides[1 - n].stream, ufrag, pwd);
  }
  for (n = 0; n < 2; n++)
    nice_agent_set_remote_candidates(sides[n].agent, sides[n].stream, 1, sides[n].told);
  g_timeout_add_seconds(20, on_limit, NULL);
  g_main_loop_run(loop);
  for (n = 0; n < 2; n++)
    printf("%d works %" G_GINT64_FORMAT "\n%d nominated %" G_GINT64_FORMAT "\n", n, sides[n].works, n,
           sides[n].nominated);
  return 0;
}
