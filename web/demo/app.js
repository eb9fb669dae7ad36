// The demo chat's page.
//
// Protocol: JSON objects in websocket text messages, at most 50 176 bytes each. Lengths are in characters.
//
// The page says
//   {"type":"join","name":"Ann","token":"…","room":"lobby"}  who this tab is: name 1-32, token 16-64 bytes, room 1-32.
//                                                            All tabs with one name are one user; the token, made once a
//                                                            browser, keeps others from taking a name that is in use.
//   {"type":"room","room":"garden"}                          go to another room
//   {"type":"say","text":"hello"}                            to the room: 1-4096
//   {"type":"tell","to":"Bob","text":"psst"}                 to all tabs of one user; the sender's tabs see it, too
//   {"type":"ping"}                                          is anybody there?
// and hears
//   {"type":"joined","name":"Ann","room":"lobby"}            after join and room
//   {"type":"rooms","rooms":[{"name":"lobby","clients":3}]}  whenever somebody comes or goes; the 100 fullest
//   {"type":"online","room":"lobby","users":[{"name":"Ann","tabs":2}],"more":0}
//   {"type":"said","room":"lobby","from":"Ann","text":"hello"}
//   {"type":"told","from":"Ann","to":"Bob","text":"psst"}
//   {"type":"refused","code":"name_taken","text":"…"}        codes: bad_request join_first bad_name name_taken bad_room
//                                                            bad_text not_online
//   {"type":"pong"}
//
// The gateway is ws://<this host>:8282 unless the address has ?gateway=host:port.
"use strict";

const LINES_MAX = 500;
const PING_EVERY_MS = 20000;
const SILENCE_MAX_MS = 50000;
const RETRY_FIRST_MS = 500;
const RETRY_LAST_MS = 15000;

const $ = (id) => document.getElementById(id);

const chat = {
  socket: null,
  joined: false,
  wanted: null, // {name, room}: what to join, now and after each reconnection
  room: "",
  shown: null, // the user whose direct messages are shown, or null for the room
  lines: new Map(), // conversation key: array of {from, text, mine, system}
  unread: new Map(),
  directs: new Map(), // key: name
  rooms: [],
  users: null,
  more: 0,
  retryMs: RETRY_FIRST_MS,
  retryTimer: 0,
  pingTimer: 0,
  heardAt: 0,
};

// --- connection -------------------------------------------------------------------------------------------------------

function gatewayUrl() {
  const asked = new URLSearchParams(location.search).get("gateway");
  const secure = location.protocol === "https:";
  const host = location.hostname.includes(":") ? `[${location.hostname}]` : location.hostname || "127.0.0.1";
  return `${secure ? "wss" : "ws"}://${asked || `${host}:8282`}/`;
}

function connect() {
  clearTimeout(chat.retryTimer);
  showState("connecting", "Connecting");
  let socket;
  try {
    socket = new WebSocket(gatewayUrl());
  } catch {
    showState("offline", "The gateway's address is not valid");
    return;
  }
  chat.socket = socket;
  socket.addEventListener("open", () => {
    chat.retryMs = RETRY_FIRST_MS;
    chat.heardAt = Date.now();
    chat.pingTimer = setInterval(ping, PING_EVERY_MS);
    showState("online", "Connected");
    if (chat.wanted) {
      join();
    }
  });
  socket.addEventListener("message", (event) => {
    chat.heardAt = Date.now();
    let notice;
    try {
      notice = JSON.parse(event.data);
    } catch {
      return;
    }
    hear(notice);
  });
  socket.addEventListener("close", () => {
    if (chat.socket === socket) {
      lost();
    }
  });
}

function lost() {
  clearInterval(chat.pingTimer);
  chat.socket = null;
  chat.joined = false;
  // Spread, so that a gateway that comes back is not met by everybody at once.
  const delay = chat.retryMs * (0.5 + Math.random() / 2);
  chat.retryMs = Math.min(chat.retryMs * 2, RETRY_LAST_MS);
  showState("offline", `Reconnecting in ${Math.max(1, Math.round(delay / 1000))} s`);
  chat.retryTimer = setTimeout(connect, delay);
  showComposer();
}

function ping() {
  if (Date.now() - chat.heardAt > SILENCE_MAX_MS) {
    const socket = chat.socket;
    lost();
    socket.close();
    return;
  }
  tell({ type: "ping" });
}

function tell(request) {
  if (!chat.socket || chat.socket.readyState !== WebSocket.OPEN) {
    return false;
  }
  chat.socket.send(JSON.stringify(request));
  return true;
}

function join() {
  tell({ type: "join", name: chat.wanted.name, token: token(), room: chat.wanted.room });
}

// The same in every tab of this browser. Without storage each tab is on its own.
function token() {
  const fresh = () =>
    Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  chat.token ??= stored("token") ?? store("token", fresh());
  return chat.token;
}

function stored(key) {
  try {
    return localStorage.getItem(`tengate-chat-${key}`);
  } catch {
    return null;
  }
}

function store(key, value) {
  try {
    localStorage.setItem(`tengate-chat-${key}`, value);
  } catch {
    // Private windows may have no storage; the chat works without.
  }
  return value;
}

// --- what the chat hears ----------------------------------------------------------------------------------------------

function hear(notice) {
  switch (notice.type) {
    case "joined":
      return heardJoined(notice);
    case "rooms":
      chat.rooms = notice.rooms;
      return showRooms();
    case "online":
      return heardOnline(notice);
    case "said":
      return addLine(roomKey(notice.room), { from: notice.from, text: notice.text, mine: isMe(notice.from) });
    case "told":
      return heardTold(notice);
    case "refused":
      return heardRefused(notice);
  }
}

function heardJoined({ name, room }) {
  const first = !chat.joined;
  chat.joined = true;
  chat.wanted = { name, room };
  store("name", name);
  if (chat.room !== room) {
    chat.room = room;
    chat.users = null;
    chat.shown = null;
  }
  $("me").textContent = name;
  $("welcome").hidden = true;
  $("chat").hidden = false;
  $("join-error").hidden = true;
  showConversation();
  if (first) {
    $("message").focus();
  }
}

function heardOnline({ room, users, more }) {
  if (room !== chat.room) {
    return;
  }
  if (chat.users) {
    const before = new Set(chat.users.map((user) => user.name));
    const now = new Set(users.map((user) => user.name));
    const system = (text) => addLine(roomKey(room), { text, system: true });
    users.filter((user) => !before.has(user.name)).forEach((user) => system(`${user.name} came in`));
    chat.users.filter((user) => !now.has(user.name)).forEach((user) => system(`${user.name} left`));
  }
  chat.users = users;
  chat.more = more;
  showOnline();
}

function heardTold({ from, to, text }) {
  const mine = isMe(from);
  const other = mine ? to : from;
  chat.directs.set(userKey(other), other);
  addLine(userKey(other), { from, text, mine });
  showDirects();
}

function heardRefused({ code, text }) {
  if (chat.joined) {
    return showNotice(text);
  }
  chat.wanted = null;
  $("chat").hidden = true;
  $("welcome").hidden = false;
  $("join-error").textContent = text;
  $("join-error").hidden = false;
  (code === "bad_room" ? $("first-room") : $("name")).focus();
}

function isMe(name) {
  return chat.wanted !== null && userKey(name) === userKey(chat.wanted.name);
}

// --- what is shown ----------------------------------------------------------------------------------------------------

const roomKey = (room) => `room:${room}`;
const userKey = (name) => `user:${name.toLowerCase()}`;
const shownKey = () => (chat.shown === null ? roomKey(chat.room) : userKey(chat.shown));

function addLine(key, line) {
  const lines = chat.lines.get(key) ?? [];
  chat.lines.set(key, lines);
  line.at = new Date();
  lines.push(line);
  if (lines.length > LINES_MAX) {
    lines.shift();
  }
  if (key === shownKey()) {
    const list = $("messages");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    list.querySelector(".empty")?.remove();
    list.append(lineElement(line, lines[lines.length - 2]));
    while (list.childElementCount > LINES_MAX) {
      list.firstElementChild.remove();
    }
    if (atEnd || line.mine) {
      list.scrollTop = list.scrollHeight;
    }
  } else if (!line.system) {
    chat.unread.set(key, (chat.unread.get(key) ?? 0) + 1);
    showRooms();
    showDirects();
  }
}

function lineElement(line, before) {
  if (line.system) {
    return element("li", { class: "system" }, line.text);
  }
  const sameAsBefore = before && !before.system && before.from === line.from;
  const item = element("li", { class: `line${line.mine ? " mine" : ""}${sameAsBefore ? " more" : ""}`, "data-from": line.from });
  if (!sameAsBefore) {
    const head = element("p", { class: "head" });
    head.append(
      element("b", {}, line.mine ? "You" : line.from),
      element("time", { datetime: line.at.toISOString() }, line.at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })),
    );
    item.append(avatar(line.from), head);
  }
  item.append(element("p", { class: "text", dir: "auto" }, line.text));
  return item;
}

function avatar(name) {
  let hash = 0;
  for (const char of name.toLowerCase()) {
    hash = (hash * 31 + char.codePointAt(0)) % 8;
  }
  return element("span", { class: `avatar hue${hash}`, "aria-hidden": "true" }, [...name][0].toUpperCase());
}

function showConversation() {
  const key = shownKey();
  chat.unread.delete(key);
  $("talk-title").textContent = chat.shown ?? chat.room;
  $("talk-title").classList.toggle("room", chat.shown === null);
  $("talk-note").textContent = chat.shown === null ? "" : "Only the two of you see this.";
  const lines = chat.lines.get(key) ?? [];
  const list = $("messages");
  list.replaceChildren(...lines.map((line, at) => lineElement(line, lines[at - 1])));
  if (lines.length === 0) {
    list.append(element("li", { class: "empty" }, "No messages yet. Say hello."));
  }
  list.scrollTop = list.scrollHeight;
  showRooms();
  showDirects();
  showOnline();
  showComposer();
}

function showUnread() {
  const unread = [...chat.unread.values()].some((count) => count > 0);
  $("menu").classList.toggle("has-unread", unread);
  $("menu").setAttribute("aria-label", unread ? "Rooms and people, unread messages" : "Rooms and people");
}

function showRooms() {
  showUnread();
  const rooms = chat.rooms.some((room) => room.name === chat.room)
    ? chat.rooms
    : [{ name: chat.room, clients: 1 }, ...chat.rooms];
  $("rooms").replaceChildren(
    ...rooms.map((room) =>
      entry({
        name: room.name,
        current: chat.shown === null && room.name === chat.room,
        unread: chat.unread.get(roomKey(room.name)),
        badge: String(room.clients),
        label: `Room ${room.name}, ${room.clients} ${room.clients === 1 ? "tab" : "tabs"}`,
        sign: element("span", { class: "sign", "aria-hidden": "true" }, "#"),
        choose: () => enterRoom(room.name),
      }),
    ),
  );
}

function showDirects() {
  $("direct-section").hidden = chat.directs.size === 0;
  $("directs").replaceChildren(
    ...[...chat.directs].map(([key, name]) =>
      entry({
        name,
        current: chat.shown !== null && userKey(chat.shown) === key,
        unread: chat.unread.get(key),
        label: `Direct messages with ${name}`,
        sign: avatar(name),
        choose: () => showDirect(name),
      }),
    ),
  );
}

function showOnline() {
  const users = chat.users ?? [];
  $("online-count").textContent = String(users.length + chat.more);
  const items = users.map((user) => {
    const me = isMe(user.name);
    return entry({
      name: me ? `${user.name} (you)` : user.name,
      badge: user.tabs > 1 ? `${user.tabs} tabs` : "",
      label: me ? `${user.name}, you` : `Write to ${user.name}`,
      sign: avatar(user.name),
      choose: me ? null : () => showDirect(user.name),
    });
  });
  if (chat.more > 0) {
    items.push(element("li", { class: "hint" }, `and ${chat.more} more`));
  }
  $("online").replaceChildren(...items);
}

// One line of a list at the side: a button, or plain text when there is nothing to choose.
function entry({ name, current, unread, badge, label, sign, choose }) {
  const item = element("li", { "data-name": name });
  const inside = choose ? element("button", { type: "button", class: "entry", "aria-label": label }) : element("span", { class: "entry" });
  if (current) {
    inside.setAttribute("aria-current", "true");
  }
  if (choose) {
    inside.addEventListener("click", choose);
  }
  inside.append(sign, element("span", { class: "entry-name" }, name));
  if (unread) {
    inside.append(element("span", { class: "unread", "aria-label": `${unread} unread` }, String(unread)));
  } else if (badge) {
    inside.append(element("span", { class: "badge" }, badge));
  }
  item.append(inside);
  return item;
}

function showDirect(name) {
  chat.shown = name;
  chat.directs.set(userKey(name), name);
  closeSide();
  showConversation();
  $("message").focus();
}

function enterRoom(room) {
  closeSide();
  if (room === chat.room) {
    chat.shown = null;
    showConversation();
  } else {
    tell({ type: "room", room });
  }
  $("message").focus();
}

function showState(state, text) {
  for (const place of document.querySelectorAll(".state")) {
    place.dataset.state = state;
    place.querySelector("[data-state-text]").textContent = text;
  }
  showComposer();
}

function showComposer() {
  const open = chat.socket !== null && chat.socket.readyState === WebSocket.OPEN;
  $("send").disabled = !open || !chat.joined;
  $("join").disabled = !open;
  $("message").placeholder = chat.shown === null ? `Message #${chat.room}` : `Message ${chat.shown}`;
}

let noticeTimer = 0;

function showNotice(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => ($("notice").hidden = true), 5000);
}

function element(tag, attributes, text) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  if (text !== undefined) {
    made.textContent = text;
  }
  return made;
}

function openSide() {
  $("side").classList.add("open");
  $("shade").hidden = false;
  $("menu").setAttribute("aria-expanded", "true");
  $("side").querySelector("button")?.focus();
}

function closeSide() {
  $("side").classList.remove("open");
  $("shade").hidden = true;
  $("menu").setAttribute("aria-expanded", "false");
}

function fitMessage() {
  const field = $("message");
  field.rows = Math.min(6, Math.max(1, field.value.split("\n").length));
}

// --- what the user does -----------------------------------------------------------------------------------------------

$("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [name, room] = [$("name").value.trim(), $("first-room").value.trim()];
  if (name && room) {
    chat.wanted = { name, room };
    join();
  }
});

$("room-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const room = $("new-room").value.trim();
  if (room) {
    enterRoom(room);
    $("new-room").value = "";
  }
});

$("send-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  const request = chat.shown === null ? { type: "say", text } : { type: "tell", to: chat.shown, text };
  if (text && chat.joined && tell(request)) {
    $("message").value = "";
    fitMessage();
  }
});

$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("send-form").requestSubmit();
  }
});

$("message").addEventListener("input", fitMessage);
$("menu").addEventListener("click", () => ($("side").classList.contains("open") ? closeSide() : openSide()));
$("shade").addEventListener("click", closeSide);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("side").classList.contains("open")) {
    closeSide();
    $("menu").focus();
  }
});
window.addEventListener("online", () => !chat.socket && connect());

$("name").value = stored("name") ?? "";
$("name").focus();
connect();
