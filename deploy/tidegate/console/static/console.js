// What htmx does not do by itself: hold a live page still, and say how its connection is.
"use strict";

(() => {
  const view = document.getElementById("live");
  if (!view) return;
  const button = document.getElementById("hold-still");
  const shown = view.querySelector(".live");
  const word = shown.querySelector(".word");
  const ended = view.querySelector(".ended");
  let still = false;
  let broken = false;

  const say = () => {
    view.classList.toggle("still", still);
    view.classList.toggle("broken", broken);
    word.textContent = broken ? "No connection" : still ? "Held" : "Live";
    button.textContent = still ? "Go on" : "Hold still";
  };
  button.addEventListener("click", () => {
    still = !still;
    say();
  });
  view.addEventListener("htmx:sseOpen", () => {
    shown.hidden = false;
    broken = false;
    say();
  });
  view.addEventListener("htmx:sseError", () => {
    broken = true;
    say();
  });
  view.addEventListener("htmx:sseBeforeMessage", (event) => {
    // Nothing is taken away under a pointer or out of the focus.
    const used = event.target.matches("#newest:hover, #newest:focus-within");
    if (still || used) event.preventDefault();
  });
  view.addEventListener("htmx:sseClose", () => {
    shown.hidden = true;
    ended.hidden = false;
  });
})();
