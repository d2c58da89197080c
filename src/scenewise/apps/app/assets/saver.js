// Downloads a file that arrives as a data URL.
watch("value", () => {
  const link = document.createElement("a");
  link.href = props.value.url;
  link.download = props.value.name;
  link.click();
});
