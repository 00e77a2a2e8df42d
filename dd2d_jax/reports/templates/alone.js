// A page of one structure and nothing else.
"use strict";
solidIn(document.querySelector(".viewer"))(JSON.parse(document.getElementById("model").textContent));
