// A button with a thumbnail for each sample; a click sends its name.
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
