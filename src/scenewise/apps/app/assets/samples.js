// A button with a small picture for each sample; a click gives its name.
element.querySelector(".samples").replaceChildren(...props.value.map(({ name, url }) => {
  const button = document.createElement("button"), image = document.createElement("img");
  image.src = url;
  image.alt = name;
  button.type = "button";
  button.title = name;
  button.append(image);
  button.addEventListener("click", () => trigger("take", { name }));
  return button;
}));
